"""Towns, countries and regions that many addresses end in: words that tell a place where they follow a street."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


PLACES = _words("""
usa uk england scotland wales ireland canada australia zealand germany deutschland austria österreich switzerland
schweiz suisse france belgium belgië belgique netherlands nederland luxembourg spain españa portugal italy italia
greece poland polska czechia česko slovakia slovensko hungary magyarország romania românia bulgaria serbia srbija
croatia hrvatska slovenia slovenija bosnia albania macedonia kosovo montenegro estonia eesti latvia latvija
lithuania lietuva finland suomi sweden sverige norway norge denmark danmark iceland ísland turkey türkiye cyprus
malta israel lebanon jordan egypt morocco maroc algeria algérie tunisia tunisie senegal ghana nigeria kenya uganda
tanzania ethiopia angola mozambique moçambique namibia botswana zimbabwe zambia mauritius india pakistan bangladesh
lanka nepal singapore malaysia indonesia philippines thailand vietnam china taiwan japan korea kazakhstan uzbekistan
georgia armenia azerbaijan ukraine belarus russia emirates uae qatar kuwait bahrain oman arabia mexico méxico
guatemala salvador honduras nicaragua panama panamá colombia venezuela ecuador peru perú bolivia chile argentina
uruguay paraguay brazil brasil cuba jamaica trinidad barbados bahamas london leeds manchester birmingham liverpool
bristol sheffield edinburgh glasgow cardiff belfast nottingham leicester oxford cambridge brighton southampton
norwich dublin cork galway limerick york brooklyn angeles chicago houston phoenix philadelphia antonio diego dallas
austin jacksonville francisco columbus indianapolis seattle denver boston nashville detroit portland memphis vegas
baltimore milwaukee albuquerque tucson fresno sacramento atlanta omaha miami oakland minneapolis tampa orleans
cleveland honolulu pittsburgh cincinnati toronto montréal montreal québec vancouver calgary edmonton ottawa winnipeg
halifax gatineau sydney melbourne brisbane perth adelaide canberra hobart darwin auckland wellington
christchurch dunedin berlin hamburg münchen munich köln cologne frankfurt stuttgart düsseldorf leipzig dortmund
essen bremen dresden hannover nürnberg duisburg bochum bonn münster karlsruhe mannheim wien vienna graz linz
salzburg innsbruck zürich zurich genève geneva basel bern lausanne winterthur luzern paris lyon marseille toulouse
nice nantes strasbourg montpellier bordeaux lille rennes reims grenoble dijon angers nîmes bruxelles brussel
brussels antwerpen gent gand liège leuven charleroi amsterdam rotterdam haag utrecht eindhoven groningen delft
haarlem leiden madrid barcelona valencia sevilla zaragoza málaga murcia bilbao alicante córdoba valladolid vigo
granada lisboa lisbon porto braga coimbra faro roma rome milano milan napoli torino palermo genova bologna firenze
florence catania venezia verona warszawa kraków łódź wrocław poznań gdańsk szczecin lublin katowice praha
prague brno ostrava plzeň bratislava košice budapest debrecen szeged pécs győr miskolc bucurești bucharest
cluj-napoca iași timișoara constanța brașov sofia plovdiv varna beograd belgrade zagreb rijeka ljubljana
maribor sarajevo skopje tirana podgorica priština pristina stockholm göteborg malmö uppsala umeå oslo bergen
trondheim stavanger tromsø københavn copenhagen aarhus odense aalborg helsinki tampere turku oulu espoo reykjavík
tallinn tartu riga rīga vilnius kaunas athens thessaloniki istanbul ankara izmir bursa antalya kyiv lviv odesa minsk
moscow petersburg tbilisi yerevan baku astana almaty tashkent bishkek dushanbe jerusalem haifa aviv beirut amman
cairo alexandria casablanca rabat alger oran tunis dakar abidjan accra lagos abuja nairobi kampala johannesburg
durban pretoria luanda maputo windhoek mumbai delhi bengaluru bangalore hyderabad chennai kolkata pune ahmedabad
jaipur lucknow kanpur nagpur indore kochi noida gurgaon gurugram karnataka maharashtra telangana kerala gujarat
karachi lahore islamabad rawalpindi dhaka chattogram chittagong sylhet colombo kathmandu singapore kowloon lumpur
penang johor jakarta bandung surabaya yogyakarta manila makati quezon cebu davao bangkok phuket hanoi minh
beijing shanghai guangzhou shenzhen chengdu wuhan nanjing hangzhou taipei kaohsiung tokyo osaka kyoto yokohama
nagoya sapporo fukuoka kobe seoul busan incheon daegu dubai dhabi sharjah riyadh jeddah doha muscat manama
guadalajara monterrey puebla tijuana mérida cancún cdmx bogotá bogota medellín cali barranquilla cartagena caracas
quito guayaquil lima arequipa trujillo cusco miraflores santiago valparaíso concepción providencia aires rosario
mendoza caba montevideo asunción havana habana paulo janeiro brasília salvador fortaleza belo horizonte recife
curitiba manaus
""")
REGIONS = _words("""
AL AK AZ AR CA CO CT DE FL GA HI ID IL IN IA KS KY LA ME MD MA MI MN MS MO MT NE NV NH NJ NM NY NC ND OH OK OR PA RI
SC SD TN TX UT VT VA WA WV WI WY DC PR BC AB SK MB ON QC NB NS NL PE NSW VIC QLD TAS ACT NT SP RJ MG RS SC BA CE DF
""")
"""States and provinces as they are shortened."""
